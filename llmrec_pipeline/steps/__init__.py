"""What each job does, one function a job: read -> transform -> write."""
