rule generate:
    input:
        checkpoint=ask("checkpoint"),
        requests="results/{model}/requests/{eval}/requests.jsonl.zst",
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
    params:
        spec=spec("evals", "eval", without=["sandbox"]),
        model=spec("models", "model"),
        engine=ask("generate_engine"),
        code=ask("generate_code"),
    shell:
        "python -m rac generate --spec {params.spec:q} --model-spec {params.model:q}"
        " --checkpoint {input.checkpoint:q} --requests {input.requests:q}"
        " --engine {params.engine} --tensor-parallel {resources.tensor_parallel}"
        " --code {params.code} --output {output.generations:q} --record {output.record:q} > {log:q} 2>&1"
