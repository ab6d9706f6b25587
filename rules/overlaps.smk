rule overlaps:
    input:
        model="resources/models/{model}",
        checkpoints=ask("overlap_checkpoints"),
        hessians=ask("overlap_hessians"),
    output:
        "results/{model}/overlaps/{variant}.csv",
    log:
        "logs/{model}/overlaps/{variant}.log",
    benchmark:
        "results/{model}/benchmarks/overlaps/{variant}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    params:
        spec=ask("overlap_spec"),
        code=stage("overlaps"),
    shell:
        "python -m rac overlaps --spec {params.spec:q} --model {input.model:q}"
        " --output {output:q} > {log:q} 2>&1"
