"""Networks: backbones and the hypernetwork that makes their weights from hyperparameters."""
