"""The child: what runs in every rank. Started by `trainer.agent`, one process per GPU."""
