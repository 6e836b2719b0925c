"""Reads the domain's raw files into the tables events, items and quarantine.

spark-submit jobs/ingest.py [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
"""

from llmrec_pipeline.cli import ingest_job

main = ingest_job(__doc__)

if __name__ == "__main__":
    main()
