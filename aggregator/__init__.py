"""The aggregator: takes in every feed, groups errors, files issues and answers questions about
lineage.
"""
