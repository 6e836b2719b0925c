"""Raw records to events, items, texts and user sequences: DataFrame -> DataFrame, no action but where a name says `collect`."""
