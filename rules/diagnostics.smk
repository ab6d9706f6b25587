rule diagnostics:
    input:
        model="resources/models/{model}",
        checkpoint=ask("checkpoint"),
        hessians=ask("heldout_hessians"),
        thoughts=ask("heldout_thoughts"),
        text=ask("heldout_text"),
    output:
        "results/{model}/{calibration}/{variant}/diagnostics.json",
    log:
        "logs/{model}/{calibration}/{variant}/diagnostics.log",
    benchmark:
        "results/{model}/benchmarks/diagnostics/{calibration}/{variant}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("threads")
    params:
        model=spec("models", "model"),
        code=stage("diagnostics"),
    shell:
        "python -m rac diagnostics --model-spec {params.model:q} --model {input.model:q}"
        " --checkpoint {input.checkpoint:q} --hessians {input.hessians:q}"
        " --thoughts {input.thoughts:q} --text {input.text:q} --output {output:q} > {log:q} 2>&1"
