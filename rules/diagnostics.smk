rule diagnostics:
    input:
        model="resources/models/{model}",
        checkpoint=ask("checkpoint"),
        hessians="results/{model}/hessians/{thoughts}",
        thoughts="results/{model}/sources/{thoughts}/sequences.safetensors",
        text="results/{model}/sources/{text}/sequences.safetensors",
    output:
        errors="results/{model}/{calibration}/{variant}/diagnostics/{thoughts}+{text}.json",
        tokens="results/{model}/{calibration}/{variant}/diagnostics/{thoughts}+{text}.tokens.jsonl.zst",
    log:
        "logs/{model}/{calibration}/{variant}/diagnostics/{thoughts}+{text}.log",
    benchmark:
        "results/{model}/benchmarks/diagnostics/{calibration}/{variant}/{thoughts}+{text}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        gpu=ask("gpu"),
        mem_mb=memory("diagnostics"),
        runtime=minutes("diagnostics"),
    params:
        dtype=ask("dtype"),
        code=stage("diagnostics"),
    shell:
        "python -m rac --gpus {resources.gpu} diagnostics --dtype {params.dtype} --model {input.model:q}"
        " --checkpoint {input.checkpoint:q} --hessians {input.hessians:q}"
        " --thoughts {input.thoughts:q} --text {input.text:q} --output {output.errors:q}"
        " --tokens {output.tokens:q} > {log:q} 2>&1"
