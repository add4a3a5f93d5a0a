"""From a recording to its report: call plan, measures, words, redaction; `Analyzer` in front."""
