rule generate:
    input:
        checkpoint=ask("checkpoint"),
        requests="results/{model}/requests/{eval}/requests.jsonl.zst",
        shards=ask("generation_shards"),
    output:
        generations="results/{model}/{calibration}/{variant}/{eval}/generations.jsonl.zst",
        record="results/{model}/{calibration}/{variant}/{eval}/generation.json",
    log:
        "logs/{model}/{calibration}/{variant}/{eval}/generate.log",
    benchmark:
        "results/{model}/benchmarks/generate/{calibration}/{variant}/{eval}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        tensor_parallel=ask("tensor_parallel"),
        gpu=ask("gpus"),
        mem_mb=memory("generate"),
        runtime=minutes("generate"),
    params:
        spec=spec("evals", "eval", without=["sandbox"]),
        model=spec("models", "model", without=["system", "thinking"]),
        engine=ask("generate_engine"),
        shards=lambda wildcards, input: [f"--shards={path}" for path in input.shards],
        code=ask("generate_code"),
    shell:
        "python -m rac --gpus {resources.gpu} generate --spec {params.spec:q} --model-spec {params.model:q}"
        " --checkpoint {input.checkpoint:q} --requests {input.requests:q}"
        " --engine {params.engine} --tensor-parallel {resources.tensor_parallel}"
        " {params.shards:q} --code {params.code} --output {output.generations:q}"
        " > {log:q} 2>&1"


rule generate_shard:
    input:
        checkpoint=ask("checkpoint"),
        requests="results/{model}/requests/{eval}/requests.jsonl.zst",
    output:
        directory(
            "results/{model}/shards/generate/{calibration}/{variant}/{eval}/{shard}"
        ),
    log:
        "logs/{model}/{calibration}/{variant}/{eval}/generate+{shard}.log",
    benchmark:
        "results/{model}/benchmarks/generate/{calibration}/{variant}/{eval}+{shard}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        tensor_parallel=ask("tensor_parallel"),
        gpu=ask("gpus"),
        mem_mb=memory("generate_shard"),
        runtime=minutes("generate_shard"),
    params:
        spec=spec("evals", "eval", without=["sandbox"]),
        model=spec("models", "model", without=["system", "thinking"]),
        engine=ask("engine"),
        shard=ask("shard"),
        code=ask("generate_code"),
    shell:
        "python -m rac --gpus {resources.gpu} generate --spec {params.spec:q} --model-spec {params.model:q}"
        " --checkpoint {input.checkpoint:q} --requests {input.requests:q}"
        " --engine {params.engine} --tensor-parallel {resources.tensor_parallel}"
        " --shard {params.shard} --code {params.code} --output {output:q} > {log:q} 2>&1"
