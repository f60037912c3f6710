"""Running elsewhere: is the cluster ready, and handing it a job."""
