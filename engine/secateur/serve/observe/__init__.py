"""What a server tells about itself: metrics, traces, logs."""
