"""S3 behind the seam: boto3 resolves and recovers, the wire moves."""
