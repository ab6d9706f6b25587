rule compress:
    input:
        model="resources/models/{model}",
        hessians=ask("calibration_hessians"),
        sequences=ask("compress_sequences"),
    output:
        directory("results/{model}/{calibration}/{variant}/checkpoint"),
    log:
        "logs/{model}/{calibration}/{variant}/compress.log",
    benchmark:
        "results/{model}/benchmarks/compress/{calibration}/{variant}.tsv"
    wildcard_constraints:
        variant=any_of(settings.variant_cells()),  # not the dense model
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    resources:
        spill=ask("spill"),
        gpu=ask("gpu"),
        mem_mb=memory("compress"),
        runtime=minutes("compress"),
    params:
        spec=ask("variant_spec"),
        calibration=ask("calibration_spec"),
        pattern=ask("variant_pattern"),
        dtype=ask("dtype"),
        hessians=lambda wildcards, input: [
            f"--hessians={path}" for path in input.hessians
        ],
        sequences=lambda wildcards, input: [
            f"--sequences={path}" for path in input.sequences
        ],
        code=ask("compress_code"),
    shell:
        "python -m rac --gpus {resources.gpu} compress --spec {params.spec:q} --calibration-spec {params.calibration:q}"
        " --pattern {params.pattern:q} --model-name {wildcards.model}"
        " --calibration-name {wildcards.calibration} --variant-name {wildcards.variant}"
        " --dtype {params.dtype} --spill={resources.spill:q} --model {input.model:q}"
        " {params.hessians:q} {params.sequences:q}"
        " --code {params.code} --output {output:q} > {log:q} 2>&1"
