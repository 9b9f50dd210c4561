"""Near ties, found and shown during training: a callback for Lightning 2."""

from audit.callback.confused_logit import ConfusedLogitCallback as ConfusedLogitCallback
