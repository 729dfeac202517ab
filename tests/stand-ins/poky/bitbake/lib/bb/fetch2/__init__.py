"""Stands in for the fetcher: it keeps revisions in the table BB_URI_HEADREVS, as up to styhead."""
