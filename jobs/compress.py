"""Makes a cheaper tier of the encoder, a folder that encoder.source may name, from the domain's texts; judges it by the vectors.

spark-submit jobs/compress.py --kind static --out FOLDER [--domain NAME] [--set key=value ...]
"""

from llmrec_pipeline.cli import compress_job

main = compress_job(__doc__)

if __name__ == "__main__":
    main()
