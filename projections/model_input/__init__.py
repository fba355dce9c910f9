"""
What a model is given of a conversation: the list of its next request, in the format of its API.

`history` tells what was recorded, this room what an API accepts of it. `arrange` pairs the calls
with their answers and orders them; a class per format writes the items; `content` converts texts,
images and values.
"""
