"""What an answer is worth beside its reference, and what a mean of that is worth: intervals, differences, p-values."""
