"""Advances the states of users with new steps and writes everybody's list: table recommendations.

spark-submit jobs/recommend.py [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
"""

from llmrec_pipeline.cli import job

main = job("recommend", __doc__)

if __name__ == "__main__":
    main()
