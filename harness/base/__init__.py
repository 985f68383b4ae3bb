"""Plain values and the file system: specs, errors, the workspace, files that are whole or absent.
It knows no torch.
"""
