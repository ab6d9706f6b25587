rule hessians:
    input:
        model="resources/models/{model}",
        sequences="results/{model}/sources/{source}/sequences.safetensors",
    output:
        directory("results/{model}/hessians/{source}"),
    log:
        "logs/{model}/hessians/{source}.log",
    benchmark:
        "results/{model}/benchmarks/hessians/{source}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        gpu=ask("gpu"),
        mem_mb=memory("hessians"),
        runtime=minutes("hessians"),
    params:
        dtype=ask("dtype"),
        code=stage("hessians"),
    shell:
        "python -m rac --gpus {resources.gpu} hessians --dtype {params.dtype} --model {input.model:q}"
        " --sequences {input.sequences:q} --output {output:q} > {log:q} 2>&1"
