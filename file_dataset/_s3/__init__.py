"""S3 behind the seam: boto3 resolves and recovers, our own HTTP moves the bytes."""
