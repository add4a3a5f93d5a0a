"""Folder runs: thousands of recordings in, one record each, whatever happens on the way.

    from speechmeta.batch.calls import AnalyzerSource, CallJob
    from speechmeta.batch.runner import FolderOptions, run_folder

    run_folder("calls", "results", CallJob(), AnalyzerSource(), FolderOptions(resume=True))

A script that does this needs `if __name__ == "__main__":`, as workers are started afresh
("spawn") and import the script.
"""
