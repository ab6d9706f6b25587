rule overlaps:
    input:
        model="resources/models/{model}",
        checkpoints=ask("overlap_checkpoints"),
        hessians=ask("overlap_hessians"),
    output:
        table="results/{model}/overlaps/{variant}.csv",
        record="results/{model}/overlaps/{variant}.json",
    log:
        "logs/{model}/overlaps/{variant}.log",
    benchmark:
        "results/{model}/benchmarks/overlaps/{variant}.tsv"
    wildcard_constraints:
        model=asked.any_compared(settings),
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    params:
        spec=ask("overlap_spec"),
        code=stage("overlaps"),
    shell:
        "python -m rac overlaps --spec {params.spec:q} --model {input.model:q}"
        " --output {output.table:q} > {log:q} 2>&1"
