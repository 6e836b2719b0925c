"""Turns behaviours into sentences and per-user textual sequences: tables texts and user_sequences.

spark-submit jobs/textualise.py [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
"""

from llmrec_pipeline.cli import job

main = job("textualise", __doc__)

if __name__ == "__main__":
    main()
