"""How an engine runs a whole network: a module each, beside those that run tasks of one layer.

    prepare(inference, x, data_format)     what is to be timed: `Prepared`

x comes channels first. Making the weights is part of `prepare`, whatever an engine does with them part of
`Prepared.build`. What peers run is made of `steps`: an ONNX model by onnx_model.py, a torch.nn.Module by pytorch.py.
pytorch_epoch.py is the loop of `python -m fastconv train` in PyTorch, for epoch.py.
"""
