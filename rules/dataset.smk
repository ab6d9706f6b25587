rule dataset:
    input:
        ask("dataset_file"),
        without=ask("dataset_without"),
    output:
        data="resources/datasets/{dataset}/data.jsonl",
        meta="resources/datasets/{dataset}/meta.json",
    log:
        "logs/datasets/{dataset}.log",
    benchmark:
        "results/benchmarks/dataset/{dataset}.tsv"
    conda:
        "../envs/rac.yaml"
    params:
        spec=spec("datasets", "dataset"),
        folder="resources/datasets/{dataset}",
        without=lambda wildcards, input: [f"--without={path}" for path in input.without],
        code=ask("dataset_code"),
    shell:
        "python -m rac dataset --spec {params.spec:q} --name {wildcards.dataset}"
        " {params.without:q} --code {params.code} --output {params.folder:q} > {log:q} 2>&1"
