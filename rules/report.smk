rule report:
    input:
        summary="results/summary.csv",
        comparisons="results/comparisons.csv",
        budgets="results/budgets.csv",
        files=matrix.report_files(settings),
    output:
        page=report(
            "results/report.html",
            caption="../docs/captions/report.rst",
            category="Page",
        ),
        figures=report(
            directory("results/figures"),
            patterns=["{figure}.svg"],
            caption="../docs/captions/figures.rst",
            category="Figures",
        ),
        record="results/report.json",
    log:
        "logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    conda:
        "../envs/rac.yaml"
    params:
        config=ask("run_config"),
        options=asked.chosen_by(settings, workflow.overwrite_configfiles),
        code=stage("report"),
    shell:
        "python -m rac report --config {params.config:q} --summary {input.summary:q}"
        " --options {params.options:q} --output {output.page:q} > {log:q} 2>&1"
