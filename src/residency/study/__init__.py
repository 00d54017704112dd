"""Is fine-tuning worth it here? The same held-out questions, answered in several ways, and which of them to use."""
