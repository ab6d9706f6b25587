rule traces:
    input:
        model="resources/models/{model}",
        dataset=ask("source_dataset"),
        shards=ask("trace_shards"),
    output:
        traces="results/{model}/traces/{source}/traces.jsonl.zst",
        info="results/{model}/traces/{source}/info.json",
    log:
        "logs/{model}/traces/{source}.log",
    benchmark:
        "results/{model}/benchmarks/traces/{source}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        tensor_parallel=ask("tensor_parallel"),
        gpu=ask("gpus"),
        mem_mb=memory("traces"),
        runtime=minutes("traces"),
    params:
        spec=spec("sources", "source"),
        model=spec("models", "model"),
        engine=ask("engine"),
        shards=lambda wildcards, input: [f"--shards={path}" for path in input.shards],
        code=ask("traces_code"),
    shell:
        "python -m rac --gpus {resources.gpu} traces --spec {params.spec:q} --name {wildcards.source}"
        " --model-spec {params.model:q} --model {input.model:q} --dataset {input.dataset:q}"
        " --engine {params.engine} --tensor-parallel {resources.tensor_parallel}"
        " {params.shards:q} --code {params.code} --output {output.traces:q} > {log:q} 2>&1"


rule traces_shard:
    input:
        model="resources/models/{model}",
        dataset=ask("source_dataset"),
    output:
        directory("results/{model}/shards/traces/{source}/{shard}"),
    log:
        "logs/{model}/traces/{source}+{shard}.log",
    benchmark:
        "results/{model}/benchmarks/traces/{source}+{shard}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        tensor_parallel=ask("tensor_parallel"),
        gpu=ask("gpus"),
        mem_mb=memory("traces_shard"),
        runtime=minutes("traces_shard"),
    params:
        spec=spec("sources", "source"),
        model=spec("models", "model"),
        engine=ask("engine"),
        shard=ask("shard"),
        code=ask("traces_code"),
    shell:
        "python -m rac --gpus {resources.gpu} traces --spec {params.spec:q} --name {wildcards.source}"
        " --model-spec {params.model:q} --model {input.model:q} --dataset {input.dataset:q}"
        " --engine {params.engine} --tensor-parallel {resources.tensor_parallel}"
        " --shard {params.shard} --code {params.code} --output {output:q} > {log:q} 2>&1"
