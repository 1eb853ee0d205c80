"""What this computer can do: optional packages, compiled kernels, constants, interruption."""
