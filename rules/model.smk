rule model:
    input:
        ask("model_files"),
    output:
        directory("resources/models/{model}"),
    log:
        "logs/models/{model}.log",
    benchmark:
        "results/{model}/benchmarks/model.tsv"
    conda:
        "../envs/rac.yaml"
    params:
        spec=spec("models", "model", without=["sampling", "system", "thinking"]),
        code=ask("model_code"),
    shell:
        "python -m rac model --spec {params.spec:q} --name {wildcards.model}"
        " --code {params.code} --output {output:q} > {log:q} 2>&1"
