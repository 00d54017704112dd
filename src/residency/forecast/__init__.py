"""What a run will take before it is begun: memory by part and phase, time, energy, cost, here and on other machines."""
