"""What every other room uses: errors, files, devices, processes. It imports nothing else of the project."""
