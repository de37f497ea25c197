"""How an engine runs a model that people have: a module each, as for the networks beside them.

    prepare(model, x, data_format)     what is to be timed: `Prepared`

x comes channels first. huggingface.py makes models of transformers and light.py those of the onnx package; making.py
runs in a process of its own before a row, writes what engines read, and finds out what is to be known of a model.
"""
