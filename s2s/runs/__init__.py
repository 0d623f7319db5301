"""Run folders: their files, checkpoints, averages, exports, and the trained run that reads them."""
