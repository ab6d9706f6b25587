rule hessians:
    input:
        model="resources/models/{model}",
        sequences="results/{model}/sources/{source}/sequences.safetensors",
        shards=ask("hessian_shards"),
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
        spill=ask("spill"),
        gpu=ask("gpu"),
        mem_mb=memory("hessians"),
        runtime=minutes("hessians"),
    params:
        dtype=ask("dtype"),
        shards=lambda wildcards, input: [f"--shards={path}" for path in input.shards],
        code=stage("hessians"),
    shell:
        "python -m rac --gpus {resources.gpu} hessians --dtype {params.dtype}"
        " --spill={resources.spill:q} --model {input.model:q} --sequences {input.sequences:q}"
        " {params.shards:q} --output {output:q} > {log:q} 2>&1"


rule hessians_shard:
    input:
        model="resources/models/{model}",
        sequences="results/{model}/sources/{source}/sequences.safetensors",
    output:
        directory("results/{model}/shards/hessians/{source}/{shard}"),
    log:
        "logs/{model}/hessians/{source}+{shard}.log",
    benchmark:
        "results/{model}/benchmarks/hessians/{source}+{shard}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        spill=ask("spill"),
        gpu=ask("gpu"),
        mem_mb=memory("hessians_shard"),
        runtime=minutes("hessians_shard"),
    params:
        dtype=ask("dtype"),
        shard=ask("shard"),
        code=stage("hessians"),
    shell:
        "python -m rac --gpus {resources.gpu} hessians --dtype {params.dtype}"
        " --spill={resources.spill:q} --model {input.model:q} --sequences {input.sequences:q}"
        " --shard {params.shard} --output {output:q} > {log:q} 2>&1"
