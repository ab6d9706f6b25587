rule losses:
    input:
        model="resources/models/{model}",
        checkpoint=ask("checkpoint"),
        thoughts="results/{model}/sources/{thoughts}/sequences.safetensors",
        text="results/{model}/sources/{text}/sequences.safetensors",
    output:
        losses="results/{model}/{calibration}/{variant}/losses/{thoughts}+{text}.json",
        tokens="results/{model}/{calibration}/{variant}/losses/{thoughts}+{text}.tokens.jsonl.zst",
    log:
        "logs/{model}/{calibration}/{variant}/losses/{thoughts}+{text}.log",
    benchmark:
        "results/{model}/benchmarks/losses/{calibration}/{variant}/{thoughts}+{text}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        gpu=ask("gpu"),
        mem_mb=memory("losses"),
        runtime=minutes("losses"),
    params:
        dtype=ask("dtype"),
        code=stage("losses"),
    shell:
        "python -m rac --gpus {resources.gpu} losses --dtype {params.dtype} --model {input.model:q}"
        " --checkpoint {input.checkpoint:q} --thoughts {input.thoughts:q} --text {input.text:q}"
        " --output {output.losses:q} --tokens {output.tokens:q} > {log:q} 2>&1"
