"""Where recordings of sessions go: recorders on the tailnet, a folder, a bucket, the spool."""
