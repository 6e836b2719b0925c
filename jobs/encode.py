"""Encodes the texts that have no vector yet, on the executors: table text_embeddings.

spark-submit jobs/encode.py [--domain NAME] [--day YYYY-MM-DD] [--set key=value ...]
"""

from llmrec_pipeline.cli import job

main = job("encode", __doc__)

if __name__ == "__main__":
    main()
