"""Tasks with right answers, run by lm-evaluation-harness on local files: nothing is downloaded."""
