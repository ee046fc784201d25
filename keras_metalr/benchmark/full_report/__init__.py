"""The whole experiment report: every run of it, and the pages made from them.

| module | what it does |
|---|---|
| `tasks`, `budgets`, `cuts` | how much is trained; what that leaves out |
| `parts`, `sections`, `plan` | from a budget to every run there will be |
| `encoders` | which encoder a budget fine-tunes |
| `runs` | makes those that are missing |
| `condensed` | what is kept of a part: one small JSON file |
| `scores` | from the kept runs to the figures of the tables |
| `task_blocks`, `learning_blocks`, `wording` | what the pages say of a part |
| `pages` | writes the pages, and checks them |
| `figures` | draws |
| `document` | headings, tables and figures as Markdown and as HTML |

`scripts/run_report.py` runs it;
`python -m keras_metalr.benchmark.full_report` writes the pages again.
"""
