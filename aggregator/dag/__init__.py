"""The links between all records, in memory: who came from whom, answered without a scan."""
