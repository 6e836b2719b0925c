"""Trains the interest model and the collaborative part, fits the joint weights: a new head_version, or the one that exists.

spark-submit jobs/train.py [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
"""

from llmrec_pipeline.cli import job

main = job("train", __doc__)

if __name__ == "__main__":
    main()
