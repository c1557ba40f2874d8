"""What every other room uses: errors, files, devices, processes. Imports nothing of the project."""
