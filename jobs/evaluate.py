"""Measures the newest model against its parts and the baselines: table evaluation. With --promote it lets it serve, if it is not worse.

spark-submit jobs/evaluate.py [--promote | --rollback] [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
"""

from llmrec_pipeline.cli import evaluate_job

main = evaluate_job(__doc__)

if __name__ == "__main__":
    main()
