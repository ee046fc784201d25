"""The whole experiment report: every run of it, and the pages made from them.

| module | what it does |
|---|---|
| `budgets` | how much of each task is trained, by the name of a budget |
| `plan` | from a budget to parts: their jobs, and the data these share |
| `runs` | makes the jobs that are missing |
| `condensed` | what is kept of a part: one small JSON file |
| `scores` | from the kept runs to the figures of the tables |
| `pages` | what the pages say |
| `figures` | draws |
| `document` | headings, tables and figures as Markdown and as HTML |

`scripts/run_report.py` runs it;
`python -m keras_metalr.benchmark.full_report` writes the pages again.
"""
