rule summary:
    input:
        matrix.summary_files(settings),
    output:
        summary=report(
            "results/summary.csv",
            caption="../docs/captions/summary.rst",
            category="Tables",
        ),
        comparisons=report(
            "results/comparisons.csv",
            caption="../docs/captions/comparisons.rst",
            category="Tables",
        ),
        budgets=report(
            "results/budgets.csv",
            caption="../docs/captions/budgets.rst",
            category="Tables",
        ),
        table="results/summary.txt",
        record="results/summary.json",
    log:
        "logs/summary.log",
    benchmark:
        "results/benchmarks/summary.tsv"
    conda:
        "../envs/rac.yaml"
    params:
        config=ask("run_config"),
        code_version=matrix.code_version(),
        code=stage("summary"),
    shell:
        "python -m rac summary --config {params.config:q} --code-version {params.code_version}"
        " --output {output.summary:q} > {log:q} 2>&1"
