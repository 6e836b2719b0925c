"""Measures the joint model against its parts and the baselines: table evaluation.

spark-submit jobs/evaluate.py [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
"""

from llmrec_pipeline.cli import job

main = job("evaluate", __doc__)

if __name__ == "__main__":
    main()
