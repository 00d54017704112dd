"""Whether a model keeps its role: probes, the rules that judge its answers, and the sitting."""
