"""Reads the domain's raw files into the tables events, items and quarantine.

spark-submit jobs/ingest.py [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
spark-submit jobs/ingest.py [--domain NAME] --dry-run N    what the first N records would become; writes nothing
spark-submit jobs/ingest.py --suggest FILE                 a draft of a domain's YAML for a log of your own
"""

from llmrec_pipeline.cli import ingest_job

main = ingest_job(__doc__)

if __name__ == "__main__":
    main()
