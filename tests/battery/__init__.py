"What must hold whatever happens: 52 lines, each tested by functions that begin with its id"
