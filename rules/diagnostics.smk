rule diagnostics:
    input:
        model="resources/models/{model}",
        checkpoint=ask("checkpoint"),
        hessians="results/{model}/hessians/{thoughts}",
    output:
        "results/{model}/{calibration}/{variant}/diagnostics/{thoughts}.json",
    log:
        "logs/{model}/{calibration}/{variant}/diagnostics/{thoughts}.log",
    benchmark:
        "results/{model}/benchmarks/diagnostics/{calibration}/{variant}/{thoughts}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        gpu=ask("gpu"),
        mem_mb=memory("diagnostics"),
        runtime=minutes("diagnostics"),
    params:
        dtype=ask("dtype"),
        code=ask("diagnostics_code"),
    shell:
        "python -m rac --gpus {resources.gpu} diagnostics --dtype {params.dtype} --model {input.model:q}"
        " --checkpoint {input.checkpoint:q} --hessians {input.hessians:q} --code {params.code}"
        " --output {output:q} > {log:q} 2>&1"
