"""AESc: anomaly detection by an autoencoder with skip connections trained on stain-corrupted clean images.

The method of Collin and De Vleeschouwer, ICPR 2020 (arXiv 2008.12977), without any orchestrator, tracker or cloud.
"""
